output "address" {
  description = "Its public address."
  value       = aws_eip.this.public_ip
}

output "interface" {
  description = "Its interface."
  value       = aws_network_interface.this.id
}

output "role_arn" {
  description = "Its role."
  value       = aws_iam_role.this.arn
}

output "group" {
  description = "Its Auto Scaling group."
  value       = aws_autoscaling_group.this.name
}
