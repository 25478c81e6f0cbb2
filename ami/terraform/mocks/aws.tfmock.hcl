# What AWS says in the tests of the modules (`terraform test`), which ask nobody.

mock_data "aws_partition" {
  defaults = { partition = "aws" }
}

mock_data "aws_region" {
  defaults = { id = "eu-west-1", region = "eu-west-1" }
}

mock_data "aws_caller_identity" {
  defaults = { account_id = "999988887777" }
}

mock_data "aws_availability_zones" {
  defaults = { names = ["eu-west-1a", "eu-west-1b", "eu-west-1c"] }
}

mock_data "aws_subnet" {
  defaults = { vpc_id = "vpc-0a1b2c3d4e5f60718", availability_zone = "eu-west-1a" }
}

mock_data "aws_vpc" {
  defaults = { cidr_block = "10.7.0.0/16" }
}

# What the provider holds against a form, where it is at hand.

mock_resource "aws_eip" {
  defaults = { public_ip = "198.51.100.100" }
}

mock_resource "aws_iam_role" {
  defaults = { arn = "arn:aws:iam::999988887777:role/privnet" }
}

mock_resource "aws_iam_instance_profile" {
  defaults = { arn = "arn:aws:iam::999988887777:instance-profile/privnet" }
}

mock_resource "aws_launch_template" {
  defaults = { id = "lt-0a1b2c3d4e5f60718", latest_version = 1 }
}
